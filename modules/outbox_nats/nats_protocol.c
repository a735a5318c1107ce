/*-------------------------------------------------------------------------
 *
 * nats_protocol.c
 *		The text protocol of NATS, as bytes.
 *
 * A frame is a line that ends with CR LF; that of a message says how many
 * bytes follow, and after them there is another CR LF.  What comes from the
 * server is trusted in nothing: a line or a reply that is longer than any
 * server of ours has reason to send is invalid, as is all that cannot be
 * parsed, and the connection is then closed by whoever reads.
 *
 * What is parsed points into the buffer, which stays the caller's.  No state,
 * no errors but out of memory, which only what appends can throw.
 *
 * Facts: https://docs.nats.io/reference/reference-protocols/nats-protocol, and
 * for headers ADR-4 of https://github.com/nats-io/nats-architecture-and-design.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nats_protocol.h"

/* INFO names all servers of a cluster; the rest of the lines are short. */
#define MAX_LINE	(64 * 1024)

/* What we ask for are acknowledgements, of some hundred bytes each. */
#define MAX_REPLY	(64 * 1024)

/* subject, subscription, perhaps a reply's subject, one or two sizes */
#define MAX_ARGUMENTS	5

/* The line of a message but its subjects, and what follows its payload. */
#define MAX_SIZES	64

#define HEADER_VERSION "NATS/1.0"
#define CRLF "\r\n"
#define CRLF_LEN 2

/* If a line begins with this word, in any case, return what is behind it. */
static bool
strip_word(NatsText *line, const char *word)
{
	Size		len = strlen(word);

	if (line->len < len || pg_strncasecmp(line->data, word, len) != 0)
		return false;
	if (line->len > len && line->data[len] != ' ' && line->data[len] != '\t')
		return false;
	line->data += len;
	line->len -= len;
	while (line->len > 0 && (line->data[0] == ' ' || line->data[0] == '\t'))
	{
		line->data++;
		line->len--;
	}
	return true;
}

/* Split a line at its blanks; how many parts, MAX_ARGUMENTS + 1 if too many. */
static int
split_arguments(const NatsText *line, NatsText *arguments)
{
	const char *p = line->data;
	const char *end = p + line->len;
	int			n = 0;

	for (;;)
	{
		const char *from;

		while (p < end && (*p == ' ' || *p == '\t'))
			p++;
		if (p == end)
			return n;
		if (n == MAX_ARGUMENTS)
			return MAX_ARGUMENTS + 1;
		for (from = p; p < end && *p != ' ' && *p != '\t'; p++)
			;
		arguments[n].data = from;
		arguments[n++].len = p - from;
	}
}

/* The number of bytes that an argument names; false if it is none we take. */
static bool
parse_size(const NatsText *argument, Size *size)
{
	*size = 0;
	if (argument->len == 0)
		return false;
	for (Size i = 0; i < argument->len; i++)
	{
		if (argument->data[i] < '0' || argument->data[i] > '9')
			return false;
		*size = *size * 10 + (argument->data[i] - '0');
		if (*size > MAX_REPLY)
			return false;
	}
	return true;
}

/*
 * Parse a message, of which "line" has been read and "len" bytes are there from
 * "body" on.  How many of them it has; 0 unless all of it is there, and is valid.
 */
static Size
parse_message(const NatsText *line, bool has_header, const char *body, Size len,
			  NatsFrame *frame)
{
	NatsText	arguments[MAX_ARGUMENTS];
	int			n = split_arguments(line, arguments);
	int			nsizes = has_header ? 2 : 1;
	Size		total;
	Size		header = 0;

	/* with or without a subject to answer to, which none of ours has */
	frame->op = NATS_INVALID;
	if (n < 2 + nsizes || n > 3 + nsizes || !parse_size(&arguments[n - 1], &total))
		return 0;
	if (has_header &&
		(!parse_size(&arguments[n - 2], &header) || header > total))
		return 0;

	if (len < total + CRLF_LEN)
	{
		frame->op = NATS_INCOMPLETE;
		return 0;
	}
	if (memcmp(body + total, CRLF, CRLF_LEN) != 0)
		return 0;

	frame->op = NATS_MSG;
	frame->subject = arguments[0];
	frame->header.data = body;
	frame->header.len = header;
	frame->payload.data = body + header;
	frame->payload.len = total - header;
	return total + CRLF_LEN;
}

/* Drop the quotes around an error's words. */
static void
strip_quotes(NatsText *words)
{
	if (words->len >= 2 && words->data[0] == '\'' &&
		words->data[words->len - 1] == '\'')
	{
		words->data++;
		words->len -= 2;
	}
}

/*
 * Parse the first frame in "len" bytes.  Returns how many of them it takes, and
 * 0 if frame->op is NATS_INCOMPLETE or NATS_INVALID.
 */
Size
nats_parse(const char *buf, Size len, NatsFrame *frame)
{
	const char *newline = memchr(buf, '\n', Min(len, MAX_LINE));
	NatsText	line;
	Size		line_len;

	memset(frame, 0, sizeof(*frame));
	if (newline == NULL)
	{
		frame->op = len < MAX_LINE ? NATS_INCOMPLETE : NATS_INVALID;
		return 0;
	}
	line_len = newline + 1 - buf;
	line.data = buf;
	line.len = line_len - 1;
	if (line.len > 0 && line.data[line.len - 1] == '\r')
		line.len--;

	if (strip_word(&line, "MSG") || strip_word(&line, "HMSG"))
	{
		Size		body_len = parse_message(&line,
											 pg_strncasecmp(buf, "HMSG", 4) == 0,
											 newline + 1, len - line_len, frame);

		return body_len == 0 ? 0 : line_len + body_len;
	}
	if (strip_word(&line, "PING"))
		frame->op = NATS_PING;
	else if (strip_word(&line, "PONG"))
		frame->op = NATS_PONG;
	else if (strip_word(&line, "+OK"))
		frame->op = NATS_OK;
	else if (strip_word(&line, "INFO"))
		frame->op = NATS_INFO;
	else if (strip_word(&line, "-ERR"))
	{
		frame->op = NATS_ERR;
		strip_quotes(&line);
	}
	else
	{
		frame->op = NATS_INVALID;
		return 0;
	}
	frame->words = line;
	return line_len;
}

/* The status in the first line of a reply's header; 0: it has none. */
int
nats_header_status(const NatsText *header)
{
	Size		version = strlen(HEADER_VERSION);
	int			status = 0;

	if (header->len < version ||
		memcmp(header->data, HEADER_VERSION, version) != 0)
		return 0;
	for (Size i = version; i < header->len; i++)
	{
		char		c = header->data[i];

		if (c >= '0' && c <= '9' && status < 1000)
			status = status * 10 + (c - '0');
		else if (c != ' ' || status > 0)
			break;
	}
	return status;
}

/*
 * Append a line to a message's header, which the first one begins.  The name is
 * printable ASCII without a colon, the value without control characters.
 */
void
nats_append_header(StringInfo header, const char *name, const char *value)
{
	if (header->len == 0)
		appendStringInfoString(header, HEADER_VERSION CRLF);
	appendStringInfoString(header, name);
	appendStringInfoString(header, ": ");
	appendStringInfoString(header, value);
	appendStringInfoString(header, CRLF);
}

/*
 * Append a message with a header, all of it or, out of memory, nothing; "reply"
 * is where the answer goes.
 */
void
nats_append_publish(StringInfo out, const char *subject, const char *reply,
					const StringInfoData *header, const char *payload,
					Size payload_len)
{
	Size		header_len = header->len + CRLF_LEN;

	enlargeStringInfo(out, strlen(subject) + strlen(reply) + MAX_SIZES +
					  header_len + payload_len);
	appendStringInfo(out, "HPUB %s %s %zu %zu" CRLF, subject, reply, header_len,
					 header_len + payload_len);
	appendBinaryStringInfo(out, header->data, header->len);
	appendStringInfoString(out, CRLF);
	appendBinaryStringInfo(out, payload, payload_len);
	appendStringInfoString(out, CRLF);
}

/*
 * Why nothing can be published to this subject; NULL if it can be.  It is text
 * without control characters.
 *
 * What begins with "$" is the server's own: whoever may choose a topic could
 * purge a stream there.  "_INBOX" is where answers to others go.
 */
const char *
nats_subject_problem(const char *subject)
{
	Size		len = strlen(subject);

	if (len == 0)
		return "it is empty";
	if (subject[0] == '.' || subject[len - 1] == '.' || strstr(subject, ".."))
		return "a part of it is empty";
	if (strchr(subject, ' '))
		return "it has a space";
	if (strpbrk(subject, "*>"))
		return "it has a wildcard";
	if (subject[0] == '$' || strncmp(subject, "_INBOX.", 7) == 0)
		return "it is reserved by NATS";
	return NULL;
}
