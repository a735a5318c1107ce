/*-------------------------------------------------------------------------
 *
 * topic_pattern.c
 *		Patterns of topics: which topics are meant.
 *
 * As in AMQP's topic exchanges, a topic is words between dots; in a pattern the
 * word "*" stands for any one word, and "#" for any number of them, none included.
 * Any other word is meant as it is, byte by byte.  A pattern with "!" in front takes
 * away from what others match.
 *
 * Nothing here allocates or throws.  Texts are in one encoding, in which a dot is a
 * byte of its own, as in all that a server may have.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/topic_pattern.h"

/* A text is walked by the beginnings of its words; NULL is behind the last one. */
static const char *
next_word(const char *word)
{
	const char *dot = strchr(word, '.');

	return dot ? dot + 1 : NULL;
}

static size_t
word_length(const char *word)
{
	return strcspn(word, ".");
}

static bool
is_word(const char *word, char wildcard)
{
	return word[0] == wildcard && word_length(word) == 1;
}

static bool
matches_word(const char *pattern, const char *topic)
{
	size_t		length = word_length(topic);

	return is_word(pattern, '*') ||
		(word_length(pattern) == length && memcmp(pattern, topic, length) == 0);
}

/*
 * Does the pattern match all of the topic?  When words differ, the last "#" takes
 * one word more, and the comparison goes on behind it: no "#" before that need be
 * tried again.
 */
static bool
matches(const char *pattern, const char *topic)
{
	bool		after_hash = false;
	const char *hash_pattern = NULL;	/* behind the last "#" ... */
	const char *hash_topic = NULL;	/* ... and what it does not take */

	while (topic)
	{
		if (pattern && is_word(pattern, '#'))
		{
			pattern = next_word(pattern);
			after_hash = true;
			hash_pattern = pattern;
			hash_topic = topic;
			if (!pattern)
				return true;
		}
		else if (pattern && matches_word(pattern, topic))
		{
			pattern = next_word(pattern);
			topic = next_word(topic);
		}
		else if (after_hash)
		{
			hash_topic = next_word(hash_topic);
			pattern = hash_pattern;
			topic = hash_topic;
		}
		else
			return false;
	}
	while (pattern && is_word(pattern, '#'))
		pattern = next_word(pattern);
	return pattern == NULL;
}

/* Why this is no pattern; NULL: it is one. */
const char *
topic_pattern_problem(const char *pattern)
{
	if (*pattern == '!')
		pattern++;
	if (*pattern == '\0')
		return "It is empty.";
	if (strlen(pattern) > TOPIC_PATTERN_BYTES)
		return "It has more than 255 bytes.";
	for (const char *word = pattern; word; word = next_word(word))
	{
		size_t		length = word_length(word);

		if (length > 1 &&
			(memchr(word, '*', length) || memchr(word, '#', length)))
			return "\"*\" and \"#\" stand for whole words, between dots.";
	}
	return NULL;
}

/* Does one of the patterns match the topic, and none of those with "!"? */
bool
topic_patterns_match(char *const *patterns, int n, const char *topic)
{
	bool		found = false;

	for (int i = 0; i < n; i++)
	{
		bool		excludes = patterns[i][0] == '!';

		if (!excludes && found)
			continue;
		if (!matches(patterns[i] + (excludes ? 1 : 0), topic))
			continue;
		if (excludes)
			return false;
		found = true;
	}
	return found;
}
