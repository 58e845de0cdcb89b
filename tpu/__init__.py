"""Start-up on TPUs and clusters: launcher, configurations, ahead-of-time compile check."""
