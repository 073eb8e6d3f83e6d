/* Text, byte by byte: lengths, comparisons, searches, words counted by hash, a table of words turned round. */
#include "bench.h"

#define SIZE 32768
static char text[SIZE + 1], copy[SIZE + 1];
static const char *const words[] = {"the", "machine", "runs", "code", "that", "was", "written", "elsewhere",
                                    "and",  "only",    "while", "it", "is", "true", "translator", "guest"};
static u32 counts[1024];

static NOINLINE u64 length(const char *s) {
    const char *p = s;
    while (*p)
        p++;
    return (u64)(p - s);
}

static NOINLINE int compare(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return (u8)*a - (u8)*b;
}

static NOINLINE const char *find(const char *where, const char *what) {
    for (; *where; where++) {
        const char *p = where, *q = what;
        while (*q && *p == *q)
            p++, q++;
        if (!*q)
            return where;
    }
    return 0;
}

static NOINLINE u64 count_words(const char *p) {
    u64 kinds = 0;
    for (int i = 0; i < 1024; i++)
        counts[i] = 0;
    while (*p) {
        u32 hash = 2166136261u;
        for (; *p && *p != ' '; p++)
            hash = (hash ^ (u8)*p) * 16777619;
        while (*p == ' ')
            p++;
        kinds += !counts[hash & 1023]++;
    }
    return kinds;
}

static NOINLINE void upper(char *to, const char *from) {
    char ch;
    while ((ch = *from++))
        *to++ = ch >= 'a' && ch <= 'z' ? (char)(ch - 32) : ch;
    *to = 0;
}

void setup(void) {
    u64 random = 2718281, at = 0;
    for (;;) {
        const char *word = words[next(&random) & 15];
        u64 size = length(word);
        if (at + size + 1 > SIZE)
            break;
        while (*word)
            text[at++] = *word++;
        text[at++] = ' ';
    }
}

u64 chunk(u64 number) {
    u64 sum = number;
    text[number * 17 % (SIZE / 2)] ^= 1;
    for (int round = 0; round < 64; round++) {
        sum = mix(sum, length(text));
        const char *at = find(text + 31 * round, "translator guest true");
        sum = mix(sum, at ? (u64)(at - text) : 0);
        sum = mix(sum, count_words(text));
        upper(copy, text);
        sum = mix(sum, (u64)(s64)compare(text, copy) + counts[sum & 1023]);
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++)
                sum += (u64)(s64)compare(words[i], words[j]);
        text[(number + (u64)round) * 17 % (SIZE / 2)] ^= 2;
    }
    return sum;
}
