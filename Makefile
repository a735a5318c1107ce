# How to build, install and test with PGXS.  GNUmakefile, which make reads
# first, adds what has to work before PostgreSQL is there.

PG_CONFIG ?= pg_config

MODULE_big = outbox
OBJS = \
	src/outbox.o \
	src/guc.o \
	src/api/admin.o \
	src/api/capture.o \
	src/api/capture_plan.o \
	src/api/citus_pushdown.o \
	src/api/destination.o \
	src/api/drop_notice.o \
	src/api/enqueue.o \
	src/api/event_check.o \
	src/api/event_guard.o \
	src/api/event_source.o \
	src/api/media_type.o \
	src/api/monitor.o \
	src/api/replica_role.o \
	src/api/restore_note.o \
	src/api/trace_context.o \
	src/http/http_address.o \
	src/http/http_client.o \
	src/http/http_header.o \
	src/http/http_options.o \
	src/http/http_request.o \
	src/http/http_socket.o \
	src/http/http_status.o \
	src/http/http_url.o \
	src/lib/clock.o \
	src/lib/file_state.o \
	src/lib/gzip.o \
	src/lib/json_members.o \
	src/lib/json_text.o \
	src/lib/latency.o \
	src/lib/log_limit.o \
	src/lib/secret_file.o \
	src/lib/text.o \
	src/lib/topic_pattern.o \
	src/lib/uuidv7.o \
	src/lib/version.o \
	src/lib/watched_file.o \
	src/publish/answer_queue.o \
	src/publish/client_certificate.o \
	src/publish/cloudevent.o \
	src/publish/dapr_numbers.o \
	src/publish/dapr_version.o \
	src/publish/http_answer.o \
	src/publish/http_batch.o \
	src/publish/http_post.o \
	src/publish/oauth_grant.o \
	src/publish/oauth_token.o \
	src/publish/proxy_credentials.o \
	src/publish/publisher_call.o \
	src/publish/publisher_dapr.o \
	src/publish/publisher_dapr_bulk.o \
	src/publish/publisher_host.o \
	src/publish/publisher_http.o \
	src/publish/publisher_load.o \
	src/publish/publisher_over_http.o \
	src/publish/secret_headers.o \
	src/publish/secret_text.o \
	src/publish/secret_url.o \
	src/publish/webhook_signature.o \
	src/relay/breaker.o \
	src/relay/relay.o \
	src/relay/relay_abandon.o \
	src/relay/relay_ahead.o \
	src/relay/relay_checkpoint.o \
	src/relay/relay_configure.o \
	src/relay/relay_count.o \
	src/relay/relay_cut.o \
	src/relay/relay_death.o \
	src/relay/relay_destination.o \
	src/relay/relay_expire.o \
	src/relay/relay_floor.o \
	src/relay/relay_keys.o \
	src/relay/relay_lane.o \
	src/relay/relay_log.o \
	src/relay/relay_main.o \
	src/relay/relay_pace.o \
	src/relay/relay_prune.o \
	src/relay/relay_queue.o \
	src/relay/relay_read.o \
	src/relay/relay_report.o \
	src/relay/relay_requests.o \
	src/relay/relay_room.o \
	src/relay/relay_rows.o \
	src/relay/relay_session.o \
	src/relay/relay_settle.o \
	src/relay/relay_spill.o \
	src/relay/relay_submit.o \
	src/relay/relay_trouble.o \
	src/relay/relay_turn.o \
	src/relay/relay_window.o \
	src/server/database_commands.o \
	src/server/database_scan.o \
	src/server/extension_row.o \
	src/server/launcher.o \
	src/server/shmem.o \
	src/server/shmem_launcher.o \
	src/server/shmem_relay.o \
	src/server/shmem_wake.o \
	src/store/row_scan.o \
	src/store/store.o \
	src/store/store_abandon.o \
	src/store/store_abandon_ahead.o \
	src/store/store_abandon_position.o \
	src/store/store_abandon_rows.o \
	src/store/store_ahead.o \
	src/store/store_ask.o \
	src/store/store_commit.o \
	src/store/store_counters.o \
	src/store/store_dead.o \
	src/store/store_define.o \
	src/store/store_delivery.o \
	src/store/store_destination.o \
	src/store/store_event.o \
	src/store/store_filter.o \
	src/store/store_fit.o \
	src/store/store_guard.o \
	src/store/store_ids.o \
	src/store/store_lock.o \
	src/store/store_plan.o \
	src/store/store_position.o \
	src/store/store_prune.o \
	src/store/store_prune_dropped.o \
	src/store/store_prune_each.o \
	src/store/store_prune_exceptions.o \
	src/store/store_receiver.o \
	src/store/store_replay.o \
	src/store/store_request.o \
	src/store/store_rows.o \
	src/store/store_salvage.o \
	src/store/store_served.o \
	src/store/store_session.o \
	src/store/store_source.o \
	src/store/store_take_over.o \
	src/store/store_try.o \
	src/store/store_values.o \
	src/store/store_walk.o \
	src/store/store_window.o
EXTENSION = outbox
DATA = sql/outbox--1.0.sql
HEADERS = src/outbox_publisher.h
PGFILEDESC = "outbox - transactional outbox"

# The library's version is the release's, which CREATE EXTENSION's is the beginning of.
OUTBOX_VERSION = $(shell sed -n 's/^   "version": "\(.*\)",$$/\1/p' $(srcdir)/META.json)

# Objects depend on the headers that they were made with: -MMD writes which.
PG_CPPFLAGS = -I$(srcdir)/src -DOUTBOX_VERSION='"$(OUTBOX_VERSION)"' $(shell curl-config --cflags)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -MMD -MP

# No other library takes the place of a function of ours, so that calls among them
# need no table and may be inlined.
PG_CFLAGS += -fno-semantic-interposition
SHLIB_LINK = -lcurl -lcrypto -lz -Wl,-Bsymbolic

# TEMP_CONFIG, which PostgreSQL::Test::Cluster reads as well, is the
# configuration of the test servers; tools/run-tests makes one.
TEMP_CONFIG ?= $(CURDIR)/test/outbox.conf
export TEMP_CONFIG

# Up to 15, pg_regress looks for expected output below its input directory
# only, where test/expected is a link.
PG_MAJOR := $(shell $(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
ifneq ($(PG_MAJOR),15)
EXPECTED = --expecteddir=$(srcdir)
endif
TEST_OPTS = --inputdir=$(srcdir)/test $(EXPECTED) \
	--temp-config=$(TEMP_CONFIG) --no-locale --encoding=UTF8

REGRESS = admin capture citus destinations drop privileges publish rows schema security settings
REGRESS_OPTS = $(TEST_OPTS) --temp-instance=tmp_regress
ISOLATION = commit_order destination discard duplicate serializable
ISOLATION_OPTS = $(TEST_OPTS) --temp-instance=tmp_isolation
TAP_TESTS = 1
PROVE_TESTS ?= test/t/*.pl
EXTRA_CLEAN = tmp_regress tmp_isolation tmp_check log results output_iso \
	$(OBJS:.o=.d)

# The extension needs no bitcode, and clang need not be installed for it.
override with_llvm = no

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# A build outside of the source tree begins without folders.  Their paths are
# absolute, or make would find those of the sources.
OBJDIRS = $(sort $(dir $(addprefix $(CURDIR)/,$(OBJS))))
$(OBJS): | $(OBJDIRS)
$(OBJDIRS):
	$(MKDIR_P) $@

src/outbox.o src/api/enqueue.o src/api/monitor.o src/http/http_options.o src/relay/relay_main.o: \
	$(srcdir)/META.json

-include $(OBJS:.o=.d)

# What DOCS would put into one folder with the README.md of everybody else.
docs_dir = $(DESTDIR)$(docdir)/extension/outbox
.PHONY: install-docs uninstall-docs
install: install-docs
install-docs:
	$(MKDIR_P) '$(docs_dir)/docs/pictures' '$(docs_dir)/monitoring'
	$(INSTALL_DATA) $(srcdir)/README.md $(srcdir)/CHANGELOG.md '$(docs_dir)/'
	$(INSTALL_DATA) $(wildcard $(srcdir)/docs/*.md) '$(docs_dir)/docs/'
	$(INSTALL_DATA) $(wildcard $(srcdir)/docs/pictures/*) '$(docs_dir)/docs/pictures/'
	$(INSTALL_DATA) $(wildcard $(srcdir)/monitoring/*) '$(docs_dir)/monitoring/'
uninstall: uninstall-docs
uninstall-docs:
	rm -rf '$(docs_dir)'

# The publishers that need another library: those that can be built here.
.PHONY: modules install-modules clean-modules
modules:
	$(MAKE) -C $(srcdir)/modules PG_CONFIG=$(PG_CONFIG)

install-modules:
	$(MAKE) -C $(srcdir)/modules PG_CONFIG=$(PG_CONFIG) install

clean-modules:
	$(MAKE) -C $(srcdir)/modules PG_CONFIG=$(PG_CONFIG) clean

clean distclean: clean-modules
