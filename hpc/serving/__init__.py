"""Model servers: vLLM as a supervised child process, published endpoints, and a client that outlives them.

`argv` config → command line (pure) · `preflight` what a launch can check · `process` the child ·
`probe` what it answers · `health` what to do about it (pure) · `supervisor` joins them ·
`registry` published endpoints · `overview` one row per replica, for people · `choice` which one, and
when again (pure) · `answers` responses → records (pure) · `client` the agents' side.
"""
