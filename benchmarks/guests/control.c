/* Integer control flow: a linked list sorted and searched, a matrix, a state machine over text, a crc of it all. */
#include "bench.h"

struct node {
    struct node *next;
    s32 key, value;
};

static struct node nodes[256];
static s32 a[24][24], b[24][24], c[24][24];
static u8 text[2048];

static NOINLINE u32 crc16(u32 crc, u32 value) {
    for (int i = 0; i < 16; i++, value >>= 1)
        crc = (crc ^ value) & 1 ? crc >> 1 ^ 0xa001 : crc >> 1;
    return crc;
}

static NOINLINE struct node *merge_sort(struct node *list, int by_value) {
    for (u64 width = 1;; width *= 2) {
        struct node *left = list, *head = 0, **tail = &head;
        u64 merges = 0;
        while (left) {
            struct node *right = left;
            u64 left_size = 0, right_size = width;
            merges++;
            for (; left_size < width && right; left_size++)
                right = right->next;
            while (left_size || (right_size && right)) {
                struct node *taken;
                int from_left = !left_size ? 0 : !right_size || !right ? 1
                    : by_value ? left->value <= right->value : left->key <= right->key;
                if (from_left)
                    taken = left, left = left->next, left_size--;
                else
                    taken = right, right = right->next, right_size--;
                *tail = taken;
                tail = &taken->next;
            }
            left = right;
        }
        *tail = 0;
        list = head;
        if (merges <= 1)
            return list;
    }
}

static NOINLINE u32 search(struct node *list, u32 crc, s32 wanted) {
    for (; list; list = list->next)
        if ((list->value & 0xff) == wanted)
            crc = crc16(crc, (u32)list->key);
    return crc;
}

static NOINLINE u32 multiply(s32 factor, u32 crc) {
    for (int i = 0; i < 24; i++)
        for (int j = 0; j < 24; j++) {
            s32 sum = 0;
            for (int k = 0; k < 24; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum + factor;
        }
    for (int i = 0; i < 24; i++)
        for (int j = 0; j < 24; j++)
            if (c[i][j] > 0)
                crc = crc16(crc, (u32)c[i][j]);
            else
                a[i][j] ^= c[i][j] & 3;
    return crc;
}

enum state { START, SIGN, INTEGER, POINT, EXPONENT, SCIENCE, INVALID, STATES };

static NOINLINE u32 scan(u32 crc) { /* which words look like numbers? */
    u32 seen[STATES] = {0};
    enum state state = START;
    for (const u8 *p = text; *p; p++) {
        u8 ch = *p;
        if (ch == ' ') {
            seen[state]++;
            state = START;
            continue;
        }
        int digit = ch >= '0' && ch <= '9';
        switch (state) {
        case START: state = digit ? INTEGER : ch == '+' || ch == '-' ? SIGN : ch == '.' ? POINT : INVALID; break;
        case SIGN: state = digit ? INTEGER : ch == '.' ? POINT : INVALID; break;
        case INTEGER: state = digit ? INTEGER : ch == '.' ? POINT : ch == 'e' ? EXPONENT : INVALID; break;
        case POINT: state = digit ? POINT : ch == 'e' ? EXPONENT : INVALID; break;
        case EXPONENT: state = digit || ch == '-' || ch == '+' ? SCIENCE : INVALID; break;
        case SCIENCE: state = digit ? SCIENCE : INVALID; break;
        default: break;
        }
    }
    for (int i = 0; i < STATES; i++)
        crc = crc16(crc, seen[i]);
    return crc;
}

void setup(void) {
    u64 random = 12345;
    for (int i = 0; i < 256; i++) {
        nodes[i].next = i < 255 ? &nodes[i + 1] : 0;
        nodes[i].key = i;
        nodes[i].value = (s32)(next(&random) & 0x7fff);
    }
    for (int i = 0; i < 24; i++)
        for (int j = 0; j < 24; j++)
            a[i][j] = (s32)(next(&random) & 63) - 31, b[i][j] = (s32)(next(&random) & 63) - 31;
    for (u64 i = 0; i < sizeof text - 1; i++)
        text[i] = (u8) "0123456789+-.e   0123456789x 012"[next(&random) & 31];
}

u64 chunk(u64 number) {
    u32 crc = (u32)number & 0xffff;
    struct node *list = nodes;
    for (s32 round = 0; round < 160; round++) {
        list = merge_sort(list, 1);
        crc = search(list, crc, round * 7 & 0xff);
        list = merge_sort(list, 0);
        crc = multiply(round, crc);
        text[(number * 31 + (u64)round * 17) % (sizeof text - 1)] ^= 1;
        crc = scan(crc);
    }
    return crc;
}
