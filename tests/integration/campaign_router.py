"""The router of a fault campaign: ``campaign_router RUN``.

It is `hpc router start --standby` at the pace of a local Slack: what waits for the real one's limits
(50 calls a minute, a minute of silence) waits for seconds here.
"""

from __future__ import annotations

import sys

from hpc.cli import main
from hpc.router import service
from hpc.router.annotators import slack_posts, slack_replies, slack_sockets

slack_posts._CALLS_A_SECOND = 1000.0
slack_replies.READS_A_SECOND = 1000.0
slack_replies.MISSED_SECONDS = 2.0
slack_sockets.PING_SECONDS = 1
slack_sockets.WATCH_SECONDS = 0.5
slack_sockets.STUCK_SECONDS = 2.0
slack_sockets.DEAD_SECONDS = 8.0
slack_sockets.ECHO_SECONDS = 3.0
service.FRONTEND_RETRY_SECONDS = 1.0
main(["-v", "router", "start", sys.argv[1], "--foreground", "--standby"])
