/*-------------------------------------------------------------------------
 *
 * json_members.h
 *		Read what is in a JSON object as it comes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_JSON_MEMBERS_H
#define OUTBOX_JSON_MEMBERS_H

/*
 * A string that is a member of an object in JSON; "depth" is 1 in the
 * outermost object, and "top" is the name of the member of that object in
 * which this is found, NULL if it has none yet.  At the end of every object it
 * is called without a name and a value, and for each element of an array that
 * is no object without a name and with an empty value.  The strings are UTF-8,
 * and stay in the memory context that the reading began in.
 */
typedef void (*JsonMemberCB) (void *arg, int depth, const char *top,
							  const char *name, const char *value);

extern bool json_members_read(const char *json, Size len, JsonMemberCB member,
							  void *arg);
extern bool json_members_read_plain(const char *json, Size len,
									JsonMemberCB member, void *arg);

#endif							/* OUTBOX_JSON_MEMBERS_H */
