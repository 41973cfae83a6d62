"""The guidance protocol over ZeroMQ: messages, codec, keys and the agent's client."""
