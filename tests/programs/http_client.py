"""A client of Python's library, which blocks: each file twenty times over one connection.

usage: http_client.py HOST:PORT FILE...
"""

import hashlib
import http.client
import sys

connection = http.client.HTTPConnection(sys.argv[1])
for name in sys.argv[2:]:
    digests = set()
    for _ in range(20):
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        digests.add((response.status, hashlib.sha256(response.read()).hexdigest()))
    print(name, *digests)
