"""The Model Context Protocol: operations as tools and tasks of an MCP server.

The SDK takes half a second to import. So `face` imports nothing of it until the first request
comes; every other module here may.
"""
