"""Who may connect and ask, as what and how often: tokens, TLS, and the bounds on connections and requests."""
