/* A Cortex-M3 that classifies the images it was built with and prints the bits of each logit: the board's part
   of `emulator`. Compiled behind a network's own file; RUN, IMAGES, INPUTS and OUTPUTS are given by the compiler. */

extern uint32_t stack_top, data_from, data_to, data_end, bss_from, bss_end;
extern const float images[];
int main(void);
void reset(void);
void stop(void);
void wrapped(void);

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, (void *)reset, (void *)stop, (void *)stop, (void *)stop, (void *)stop, (void *)stop,
    [15] = (void *)wrapped,
};

/* Semihosting: the emulator answers a breakpoint with the operation in r0. */
static void ask(int32_t operation, const void *argument) {
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void stop(void) {
    ask(0x18, (void *)0x20023); /* a run-time error */
    for (;;) {}
}

void reset(void) {
    uint32_t *from = &data_from, *to;
    for (to = &data_to; to < &data_end; to++) *to = *from++;
    for (to = &bss_from; to < &bss_end; to++) *to = 0;
    if (main()) stop();
    ask(0x18, (void *)0x20026); /* the end */
    for (;;) {}
}

static void print(uint32_t value, char end) {
    static char text[10];
    int32_t i;
    for (i = 0; i < 8; i++) text[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    text[8] = end;
    text[9] = 0;
    ask(0x04, text);
}

/* SysTick counts the processor's clock down from 2^24 - 1, again and again. */
#define CONTROL (*(volatile uint32_t *)0xe000e010)
#define RELOAD (*(volatile uint32_t *)0xe000e014)
#define TICKS (*(volatile uint32_t *)0xe000e018)

static volatile uint32_t wraps;

void wrapped(void) { wraps++; }

int main(void) {
    static float logits[OUTPUTS];
    int32_t i, n;
    RELOAD = 0xffffff;
    CONTROL = 7;
    for (i = 0; i < IMAGES; i++) {
        uint32_t before, after, bits;
        TICKS = 0;
        wraps = 0;
        before = TICKS ? TICKS : RELOAD + 1; /* cleared, it begins with the next clock */
        if (RUN(images + i * INPUTS, logits)) return 1;
        after = TICKS;
        print(wraps, ' ');
        print(before - after, ' '); /* negative where the count began again in between */
        for (n = 0; n < OUTPUTS; n++) {
            union { float number; uint32_t bits; } one;
            one.number = logits[n];
            bits = one.bits;
            print(bits, n + 1 < OUTPUTS ? ' ' : '\n');
        }
    }
    return 0;
}
