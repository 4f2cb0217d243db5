"""The dialects: each turns its bodies into a RankRequest, and a RankAnswer into its own."""
