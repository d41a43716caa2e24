"""The host over HTTP, on a loopback port and on the control socket. Taking this room away leaves the events flowing."""
