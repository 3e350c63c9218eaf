"""The served stack audited again by a schedule, so that one that became weaker is known before it is attacked."""
