# The door. `make demo` and `make check` start from a bare Debian 12; everything they do is Meson's.
#
#   make demo                 packages, build, the bundled model tells a story
#   make build                packages, build: build/src/apps/hearth
#   make check                packages, build, every test; ends with "N passed, N failed"
#   make check SAN=address,undefined     (or thread) the same in its own build folder
#   make soak                 the long tests: sanitizers, long forms, fuzzers (hours: SECONDS= per fuzzer)
#   make fuzz                 the fuzzers alone, a minute each (SECONDS=)
#   make bench MODEL=FILE     speed, as a share of what this machine can do
#   make install PREFIX=/usr  DESTDIR= is honoured
#   make clean                removes the build folders
#
# BUILD= names another build folder, CC= another compiler, MESON_ARGS= goes to `meson setup`, JOBS= limits the
# number of compilers at once, OFFLINE=1 installs nothing.
SAN ?=
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
comma := ,
BUILD ?= build$(if $(SAN),-$(subst $(comma),-,$(SAN)))
SETUP = meson setup --prefix=$(PREFIX) $(if $(SAN),-Db_sanitize=$(SAN) -Db_lundef=false) $(MESON_ARGS)
HEARTH = $(BUILD)/src/apps/hearth

.PHONY: demo build check soak fuzz bench install clean tests-built
.DEFAULT_GOAL := build

build:
	@tools/install-deps.sh build
	@test -f $(BUILD)/build.ninja || $(SETUP) -Dtests=false $(BUILD)
	@ninja -j$(JOBS) -C $(BUILD)

demo: build
	@tools/demo.sh $(HEARTH)

tests-built:
	@tools/install-deps.sh check $(BUILD)
	@test -f $(BUILD)/build.ninja || $(SETUP) $(BUILD)
	@meson configure $(BUILD) -Dtests=true
	@ninja -j$(JOBS) -C $(BUILD)

check: tests-built
	@tools/check.sh $(BUILD) $(SAN)

soak:
	@tools/soak.sh $(SECONDS)

fuzz:
	@tools/fuzz.sh $(or $(SECONDS),60)

bench: build
	@$(HEARTH) bench $(or $(MODEL),models/stories260K.gguf)

install: build
	@meson configure $(BUILD) --prefix=$(PREFIX)
	@meson install -C $(BUILD)

clean:
	rm -rf build build-*
