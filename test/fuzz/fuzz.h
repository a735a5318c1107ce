/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *		What the fuzzers share: how each gets its input and says what is wrong.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FUZZ_H
#define OUTBOX_FUZZ_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

/* What of an input has not been used yet. */
typedef struct FuzzInput
{
	const char *data;
	Size		len;
} FuzzInput;

/* The body of fuzz_try(). */
typedef void (*FuzzBody) (void *arg);

/*
 * Use an input.  The current memory context is emptied afterwards, and there is
 * a transaction.  What is thrown is a finding.
 */
typedef void (*FuzzTarget) (FuzzInput *input);

/* fuzz_main.c */
extern uint8 fuzz_byte(FuzzInput *input);
extern const char *fuzz_part(FuzzInput *input, char end, Size *len);
extern char *fuzz_string(FuzzInput *input);
extern int	fuzz_try(FuzzBody body, void *arg);
extern Jsonb *fuzz_jsonb(const char *json);
extern bool fuzz_is_json(const char *json);
extern void fuzz_write_file(const char *path, const char *data, Size len);
extern void fuzz_fail(const char *format,...) pg_attribute_printf(1, 2) __attribute__((noreturn));

/* fuzz_answers.c, fuzz_bodies.c, fuzz_brokers.c, fuzz_rows.c, fuzz_settings.c */
extern void fuzz_answers(FuzzInput *input);
extern void fuzz_bodies(FuzzInput *input);
extern void fuzz_brokers(FuzzInput *input);
extern void fuzz_rows(FuzzInput *input);
extern void fuzz_settings(FuzzInput *input);

/* fuzz_check.c */
extern void fuzz_check_error(const char *error, const char *secret);

#endif							/* OUTBOX_FUZZ_H */
