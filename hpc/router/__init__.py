"""The guidance router: takes alerts from agents, shows them to annotators, delivers replies."""
