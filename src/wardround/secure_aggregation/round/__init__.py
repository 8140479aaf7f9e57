"""One round of masked hospitals: terms, announcements, transcript, confirmations, masks, uploads, sum, witness."""
