"""The ledger: one database for pools, fingerprints, studies, trials and evaluations."""
