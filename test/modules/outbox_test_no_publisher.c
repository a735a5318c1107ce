/*-------------------------------------------------------------------------
 *
 * outbox_test_no_publisher.c
 *		A library that PostgreSQL loads and that is no publisher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;
