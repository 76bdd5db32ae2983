"""A server of market news, for clients of the Model Context Protocol: `tailrace market-news`.

It knows nothing of runs. It is what Tailrace may have as an upstream: a tool that takes its time
and tells how far it is.
"""
