"""The episode loop: a ReAct agent that acts, is watched for drift, and obeys guidance."""
