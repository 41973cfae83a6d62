"""A strict local Slack: the Web API and Socket Mode as Slack documents them, for development and tests."""
