"""Training on Megatron-core. torch and megatron are imported only below here, and never by the command line."""
