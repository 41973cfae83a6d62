"""What a run came to: its episodes at a glance, timelines and reports."""
