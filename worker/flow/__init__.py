"""How operations and reads reach B2COPY and the CRM: pusher, lanes, senders, gates, meaning of outcomes, retries."""
