# What the Makefiles of all modules share.  A module says, before it includes
# this,
#
#	MODULE_big		its name, which is that of its folder
#	OBJS			its own objects
#	LIBRARIES		what pkg-config calls the libraries that it needs, if any
#	COMMON			what it uses of modules/common, and of the sources of outbox
#
# Those sources are compiled into each module: nothing here calls outbox.so.  On
# 15 libraries are loaded with RTLD_GLOBAL, where a module would find the
# functions of another one before its own; hence -Bsymbolic.

PG_CONFIG ?= pg_config
top = ../..

OBJS += $(addsuffix .o,$(COMMON))
vpath %.c $(top)/modules/common $(top)/src/lib $(top)/src/publish

PG_CPPFLAGS = -I$(top)/src -I$(top)/modules
ifneq ($(LIBRARIES),)
PG_CPPFLAGS += $(shell pkg-config --cflags $(LIBRARIES))
SHLIB_LINK += $(shell pkg-config --libs $(LIBRARIES))
endif
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -fno-semantic-interposition -MMD -MP
SHLIB_LINK += -Wl,-Bsymbolic -lpthread

EXTRA_CLEAN = $(OBJS:.o=.d)
override with_llvm = no

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

-include $(OBJS:.o=.d)
