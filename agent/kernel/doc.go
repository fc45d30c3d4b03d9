// Package kernel reads the kernel log and says which of its records are evidence
// of a fault.
//
// It decides what a record is (raw /dev/kmsg format), which fault it tells of
// (the table [rules]: a new rule is added there), and who vouches for it: only
// records of the kernel's own facility are the kernel's word. It refuses to match
// inside a message, where a user's string (a process name, a mount option) may
// stand: every rule is anchored at the beginning. An Xid that no rule knows is
// counted by its code.
package kernel
