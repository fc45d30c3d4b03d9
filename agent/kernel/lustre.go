package kernel

import (
	"strings"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// matchLustre reads what the Lustre client says about the connection to one
// target: "Lustre: [code: ][pid:cpu:(file:line:function()) ]<device>: TEXT".
func matchLustre(m *Matcher, e *entry) {
	rest, ok := strings.CutPrefix(e.text, "Lustre: ")
	if !ok {
		if rest, ok = strings.CutPrefix(e.text, "LustreError: "); !ok {
			return
		}
	}
	if code, after, ok := strings.Cut(rest, ": "); ok && isConsoleCode(code) {
		rest = after
	}
	if where, after, ok := strings.Cut(rest, ") "); ok && strings.Contains(where, ":(") && rest[0] >= '0' && rest[0] <= '9' {
		rest = after
	}
	device, text, ok := strings.Cut(rest, ": ")
	if !ok || device == "" || len(device) > maxName || strings.Contains(device, " ") {
		return
	}
	s := fault.Subject{Device: fault.DeviceLustre, Port: lustreTarget(device)}
	switch {
	case strings.HasPrefix(text, "Connection to ") && strings.Contains(text, " was lost; in progress operations "),
		strings.HasPrefix(text, "This client was evicted by "),
		strings.HasPrefix(text, "Evicted from "):
		e.say(fault.LustreConnection, fault.Bad, s)
	case strings.HasPrefix(text, "Connection restored to "):
		e.say(fault.LustreConnection, fault.OK, s).Clear = fault.ClearKernel
	}
}

// isConsoleCode reports whether s is a message code of older clients, "11-0" or "167-0".
func isConsoleCode(s string) bool {
	number, letter, ok := strings.Cut(s, "-")
	return ok && number != "" && len(letter) == 1 && strings.Trim(number, "0123456789abcdef") == ""
}

// lustreTarget gives "fs-OST0002" of the client device "fs-OST0002-osc-ffff88…".
// The restored connection's own text may name the server by address alone.
func lustreTarget(device string) string {
	for _, client := range []string{"-osc-", "-mdc-"} {
		if target, _, ok := strings.Cut(device, client); ok {
			return target
		}
	}
	return device
}
