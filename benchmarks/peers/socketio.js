// Socket.IO, WebSocket only: POST a list of texts, and each goes to every client.
const http = require("http");
const { Server } = require("socket.io");

const server = http.createServer((request, response) => {
  if (request.method !== "POST") return;
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    for (const text of JSON.parse(body)) sockets.emit("message", JSON.parse(text));
    response.end();
  });
});
const sockets = new Server(server, { transports: ["websocket"], pingInterval: 120000 });
server.listen(Number(process.argv[2]), "127.0.0.1", 2048);
