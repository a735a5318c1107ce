/*-------------------------------------------------------------------------
 *
 * fuzz_main.c
 *		A function in SQL that runs a fuzzer in a backend.
 *
 * What is fuzzed is the extension's own objects in a real server: this library
 * is the extension, with the fuzzers in it, and is loaded in its place.  Built
 * by tools/fuzz it has libFuzzer, too, which makes inputs until its time is up;
 * without that, as the tests build it, it uses the inputs that are kept in
 * test/fuzz/corpus, once.
 *
 * A finding is whatever ends the process: a sanitizer's report, a signal, or
 * fuzz_fail(), by which a fuzzer says that something is not as it has to be.
 *
 * Memory.  Each input has a context, in which even small allocations have
 * blocks of their own, so that the address sanitizer sees where they end.
 *
 * Errors.  What a fuzzer does not expect is a finding: none passes libFuzzer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "fuzz.h"

PG_FUNCTION_INFO_V1(outbox_fuzz);

/* libFuzzer's, if it is there */
extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*use) (const uint8 *data, size_t size)) __attribute__((weak));

static const struct
{
	const char *name;
	FuzzTarget	use;
}			targets[] = {
	{"answers", fuzz_answers},
	{"bodies", fuzz_bodies},
	{"brokers", fuzz_brokers},
	{"rows", fuzz_rows},
	{"settings", fuzz_settings}
};

static FuzzTarget target;
static MemoryContext input_context;

/* The file that the input is from; NULL: libFuzzer made it. */
static const char *input_file = NULL;

/* Say what is not as it has to be. */
void
fuzz_fail(const char *format,...)
{
	va_list		args;

	fprintf(stderr, "outbox_fuzz: %s: ", input_file ? input_file : "finding");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

/* The next byte; 0 behind the end. */
uint8
fuzz_byte(FuzzInput *input)
{
	if (input->len == 0)
		return 0;
	input->len--;
	return (uint8) *input->data++;
}

/* What is before the next "end", which is used up, or all that is left. */
const char *
fuzz_part(FuzzInput *input, char end, Size *len)
{
	const char *part = input->data;
	const char *stop = input->len > 0 ? memchr(part, end, input->len) : NULL;

	*len = stop ? stop - part : input->len;
	input->data += *len + (stop != NULL);
	input->len -= *len + (stop != NULL);
	return part;
}

/* The same up to a NUL, and with one behind it; palloc'd. */
char *
fuzz_string(FuzzInput *input)
{
	Size		len;
	const char *part = fuzz_part(input, '\0', &len);

	return pnstrdup(part, len);
}

/* Call something that may throw.  Returns the error's SQLSTATE; 0: none. */
int
fuzz_try(FuzzBody body, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int sqlstate = 0;

	PG_TRY();
	{
		body(arg);
	}
	PG_CATCH();
	{
		sqlstate = geterrcode();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return sqlstate;
}

typedef struct Parse
{
	const char *json;
	Jsonb	   *jsonb;
} Parse;

static void
parse_jsonb(void *arg)
{
	Parse	   *parse = arg;

	parse->jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													  CStringGetDatum(parse->json)));
}

static void
parse_json(void *arg)
{
	DirectFunctionCall1(json_in, CStringGetDatum(arg));
}

/* A text as the server reads it; NULL: it makes no jsonb of that. */
Jsonb *
fuzz_jsonb(const char *json)
{
	Parse		parse = {json, NULL};

	return fuzz_try(parse_jsonb, &parse) == 0 ? parse.jsonb : NULL;
}

/* Does the server take this for JSON? */
bool
fuzz_is_json(const char *json)
{
	return fuzz_try(parse_json, unconstify(char *, json)) == 0;
}

/* Write a file that is the server's user's alone. */
void
fuzz_write_file(const char *path, const char *data, Size len)
{
	int			fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, data, len) != len || close(fd) != 0)
		fuzz_fail("could not write \"%s\": %m", path);
}

static void
use_in_context(void *arg)
{
	target(arg);
}

/* libFuzzer's callback */
static int
use_input(const uint8 *data, size_t size)
{
	FuzzInput	input = {(const char *) data, size};
	MemoryContext old = MemoryContextSwitchTo(input_context);
	MemoryContext transaction = CurTransactionContext;
	int			sqlstate;

	/* what lasts until the end of the transaction would become too much */
	CurTransactionContext = input_context;
	sqlstate = fuzz_try(use_in_context, &input);
	if (sqlstate != 0)
		fuzz_fail("error %s", unpack_sql_state(sqlstate));
	CurTransactionContext = transaction;
	MemoryContextSwitchTo(old);
	MemoryContextReset(input_context);
	return 0;
}

/* Use each file of a directory as an input.  How many are there? */
static int
use_directory(const char *path)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *entry;
	int			n = 0;

	while ((entry = ReadDir(dir, path)) != NULL)
	{
		char	   *file = psprintf("%s/%s", path, entry->d_name);
		struct stat st;
		char	   *data;
		int			fd;

		if (stat(file, &st) != 0 || !S_ISREG(st.st_mode))
			continue;

		/* not palloc'd: the end of the input is to be that of a block */
		data = malloc(Max(st.st_size, 1));
		fd = open(file, O_RDONLY);
		if (data == NULL || fd < 0 || read(fd, data, st.st_size) != st.st_size)
			fuzz_fail("could not read \"%s\": %m", file);
		close(fd);
		input_file = file;
		use_input((uint8 *) data, st.st_size);
		free(data);
		n++;
	}
	FreeDir(dir);
	return n;
}

/* Run libFuzzer, which mostly ends the process. */
static void
run_fuzzer(Datum *args, int nargs)
{
	char	  **argv = palloc((nargs + 2) * sizeof(char *));
	int			argc = 0;

	argv[argc++] = "outbox_fuzz";
	for (int i = 0; i < nargs; i++)
		argv[argc++] = TextDatumGetCString(args[i]);
	argv[argc] = NULL;
	LLVMFuzzerRunDriver(&argc, &argv, use_input);
}

/*
 * outbox_fuzz(target text, VARIADIC args text[]) returns int: run libFuzzer with
 * these arguments.  Without it they are directories; the result is how many
 * inputs were in them.
 */
Datum
outbox_fuzz(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum	   *args;
	int			nargs;
	int			n = 0;

	for (int i = 0; i < lengthof(targets); i++)
	{
		if (strcmp(targets[i].name, name) == 0)
			target = targets[i].use;
	}
	if (target == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no fuzzer \"%s\"", name)));
	input_context = AllocSetContextCreate(CurrentMemoryContext, "outbox fuzz",
										  0, 1024, 1024);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false,
					  TYPALIGN_INT, &args, NULL, &nargs);
	if (LLVMFuzzerRunDriver)
		run_fuzzer(args, nargs);
	else
	{
		for (int i = 0; i < nargs; i++)
			n += use_directory(TextDatumGetCString(args[i]));
	}
	PG_RETURN_INT32(n);
}
