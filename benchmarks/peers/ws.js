// Node's `ws`: POST a list of texts, and each goes to every client.
const http = require("http");
const { WebSocketServer } = require("ws");

const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    for (const text of JSON.parse(body)) for (const client of sockets.clients) client.send(text);
    response.end();
  });
});
const sockets = new WebSocketServer({ server, path: "/ws/", perMessageDeflate: false });
server.listen(Number(process.argv[2]), "127.0.0.1", 2048);
