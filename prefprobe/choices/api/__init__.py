"""Choices of a model behind an API. A question has an answer and a call has a reply; this is the way of one question:

1. `Question` (choices/engine.py): the choice log makes it of an ordered pair: names, words, and the digest that it is kept under.
2. `Call` (client.py): when its turn comes, the engine puts it into words and the endpoint into its dialect: the JSON to send.
3. `Reply` (client.py): the client sends that until something counts: the JSON that came, or why none did.
4. `Answer` (choices/engine.py): the endpoint keeps of it what was said, unread, and what it cost: a row of answers.parquet.
5. `Reading` (choices/engine.py): the engine, or a judge, says what was chosen; with the names a row of choices.parquet.
"""
