"""How well trackers track: measures, protocols, stored predictions, scores, reports."""
