/*
 * A plugin for QEMU's user-mode emulator: counts the instructions that a program executes, at marks that it sets.
 *
 * Copyright (C) 2026 the Secateur authors
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * This program is free software; you can redistribute it and/or modify it under the terms of the GNU General Public
 * License as published by the Free Software Foundation; either version 2 of the License, or (at your option) any later
 * version. It is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY. It is loaded into QEMU,
 * which is under the same licence; no other part of Secateur is.
 *
 * A program sets mark k by prctl(0x0C0FFEE5, k), which fails in the kernel and does nothing. For each mark a line "k n"
 * is appended to the file given by out=FILE: n is the number of instructions executed so far, by all threads together.
 * Each line is flushed, so that it can be read while the program runs.
 *
 * Each thread adds to a counter of its own: a shared one would lose additions. Numbers of system calls are those of
 * arm64. QEMU's header is not packaged everywhere, so that the few functions used are declared here; PLUGIN_API is the
 * version of the interface, 1 before QEMU 9 and 2 from there on: what is used here is the same in both.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif

#define EXPORT __attribute__((visibility("default")))
#define PRCTL 167
#define MAGIC 0x0C0FFEE5
#define THREADS 1024 /* a power of two; further threads share the counters */

typedef uint64_t plugin_id;
struct qemu_plugin_tb;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*call)(plugin_id, struct qemu_plugin_tb *));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*call)(unsigned int, void *),
                                                 int flags, void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id id,
                                                 void (*call)(plugin_id, unsigned int, int64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t));

EXPORT int qemu_plugin_version = PLUGIN_API;

static struct {
    uint64_t executed;
    char apart[56]; /* one cache line each */
} counters[THREADS];
static FILE *out;

/* Called before each block of instructions that has no jump within; data is their number. */
static void count(unsigned int thread, void *data)
{
    counters[thread & (THREADS - 1)].executed += (uintptr_t)data;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, count, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned int thread, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    uint64_t sum = 0;

    (void)id, (void)thread, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != PRCTL || (uint32_t)a1 != MAGIC) {
        return;
    }
    for (int i = 0; i < THREADS; i++) {
        sum += counters[i].executed;
    }
    fprintf(out, "%" PRIu64 " %" PRIu64 "\n", a2, sum);
    fflush(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(argv[i] + 4, "a");
        }
    }
    if (!out) {
        fprintf(stderr, "count_instructions: out=FILE is missing or cannot be written: %s\n", strerror(errno));
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
