"""The HTTP/1.1 server in front of the Application, on httptools: every RequestHandler runs behind it unchanged, and a
table of hot calls is answered before a handler is needed. It knows nothing of services; it needs the extra `speed`.
"""
