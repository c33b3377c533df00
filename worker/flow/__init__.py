"""How operations flow to B2COPY: lanes, the pusher that sends them, the policy, the breaker, the rate limit."""
