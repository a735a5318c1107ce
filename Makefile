# outbox: build, install, test.  `make demo` and `make check` are for a fresh
# machine and do all the set-up themselves; the rest is PGXS as usual.

MODULE_big = outbox
SRCS = $(wildcard src/*.c)
OBJS = $(SRCS:.c=.o)
EXTENSION = outbox
DATA = $(wildcard sql/outbox--*.sql)
HEADERS = src/outbox_publisher.h
PGFILEDESC = "outbox - transactional outbox"

PG_CPPFLAGS = $(shell curl-config --cflags)
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-sign-compare -Wno-missing-field-initializers
SHLIB_LINK = -lcurl

REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --temp-instance=tmp_regress \
	--temp-config=test/outbox.conf --no-locale --encoding=UTF8
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --temp-instance=tmp_isolation \
	--temp-config=test/outbox.conf --no-locale --encoding=UTF8
TAP_TESTS = 1
PROVE_TESTS ?= test/t/*.pl
EXTRA_CLEAN = tmp_regress tmp_isolation tmp_check log results output_iso

# The extension needs no bitcode, and clang need not be installed for it.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
