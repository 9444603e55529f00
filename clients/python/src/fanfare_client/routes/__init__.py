"""The routes of the API: each function makes the Call for one of them."""
