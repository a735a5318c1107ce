/*-------------------------------------------------------------------------
 *
 * byte_word.h
 *		Eight bytes in a word, of which one is looked for.
 *
 * Texts are looked through for what must not be in them far more often than it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BYTE_WORD_H
#define OUTBOX_BYTE_WORD_H

/* Eight times the same byte. */
#define BYTE_WORD(c) (UINT64CONST(0x0101010101010101) * (unsigned char) (c))

/* Has "v" a byte less than "c", which is at most 0x80? */
#define BYTE_WORD_HAS_LESS(v, c) \
	(((v) - BYTE_WORD(c)) & ~(v) & BYTE_WORD(0x80))

/* Has it this one? */
#define BYTE_WORD_HAS(v, c) BYTE_WORD_HAS_LESS((v) ^ BYTE_WORD(c), 1)

/* The eight bytes from here on. */
static inline uint64
byte_word_at(const char *p)
{
	uint64		v;

	memcpy(&v, p, sizeof(v));
	return v;
}

#endif							/* OUTBOX_BYTE_WORD_H */
