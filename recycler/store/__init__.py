"""One database for everything that must outlive a process: registry, studies, ledger of trials."""
