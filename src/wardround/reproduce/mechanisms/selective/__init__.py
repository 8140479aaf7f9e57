"""Selective sharing: hospitals train replicas of their own, and exchange only some parameters with a server."""
