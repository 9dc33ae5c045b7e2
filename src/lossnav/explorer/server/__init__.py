"""What a browser reaches: address, token, sockets, messages, files of the page."""
