"""Where annotators are met: Slack, or a terminal."""
