# How to build, install and test with PGXS.  GNUmakefile, which make reads
# first, adds what has to work before PostgreSQL is there.

PG_CONFIG ?= pg_config

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

# TEMP_CONFIG, which PostgreSQL::Test::Cluster reads as well, is the
# configuration of the test servers; tools/run-tests makes one.
TEMP_CONFIG ?= $(CURDIR)/test/outbox.conf
export TEMP_CONFIG

# From 16 on, pg_regress looks for expected output elsewhere.
PG_MAJOR := $(shell $(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
ifeq ($(filter 14 15,$(PG_MAJOR)),)
EXPECTED = --expecteddir=test
endif

REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test $(EXPECTED) --temp-instance=tmp_regress \
	--temp-config=$(TEMP_CONFIG) --no-locale --encoding=UTF8
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test $(EXPECTED) --temp-instance=tmp_isolation \
	--temp-config=$(TEMP_CONFIG) --no-locale --encoding=UTF8
TAP_TESTS = 1
PROVE_TESTS ?= test/t/*.pl
EXTRA_CLEAN = tmp_regress tmp_isolation tmp_check log results output_iso

# The extension needs no bitcode, and clang need not be installed for it.
override with_llvm = no

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
