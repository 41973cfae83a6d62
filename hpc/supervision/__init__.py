"""Supervision control: labels on actions (rules, a judge, humans) and the policy that says which may teach."""
