package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// BenchmarkHeartbeats sends the heartbeats of 2,048 steady nodes, each over a
// mutual TLS connection of its own that stays open. One operation is one
// heartbeat. Multiply cpu-us/heartbeat by 205 for the share of a core that
// 2,048 nodes take with a heartbeat every 10 s.
func BenchmarkHeartbeats(b *testing.B) {
	const nodes = 2048
	s := newSite(b, nil)
	names := make([]string, nodes)
	for i := range names {
		names[i] = fmt.Sprintf("ip-10-2-%d-%d", i/256, i%256)
		s.client(b, names[i])
	}
	s.start(b)
	index := 0
	report := func(n int) fault.NodeReport {
		r := well(names[n], fmt.Sprintf("i-%017x", n), "boot-1", 1)
		r.Sequence = uint64(n) + 1
		for gpu := range 8 {
			r.Jobs = append(r.Jobs, fault.Process{Job: "42", Rank: &gpu, PID: 1000 + gpu, DeviceUUID: fmt.Sprintf("GPU-%08d-%d", n, gpu), DeviceIndex: gpu})
		}
		return r
	}
	for n := range names { // first contact: the handshakes are not what is measured
		if status := s.report(b, names[n], report(n)); status != http.StatusNoContent {
			b.Fatalf("first report of %s = %d, want 204", names[n], status)
		}
	}
	before := cpuSeconds(b, s.process.Process.Pid)
	for b.Loop() {
		n := index % nodes
		r := report(n)
		r.Sequence = uint64(index + nodes)
		index++
		if status := s.report(b, names[n], r); status != http.StatusNoContent {
			b.Fatalf("heartbeat of %s = %d, want 204", names[n], status)
		}
	}
	b.ReportMetric((cpuSeconds(b, s.process.Process.Pid)-before)*1e6/float64(index), "cpu-us/heartbeat")
	b.ReportMetric(residentMiB(b, s.process.Process.Pid), "rss-MiB")
}

// cpuSeconds is the time that a process has computed, from /proc/PID/stat, whose
// unit is a hundredth of a second.
func cpuSeconds(b *testing.B, pid int) float64 {
	b.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), ") ") // the name before it may hold anything
	fields := strings.Fields(rest)
	total := 0.0
	for _, field := range fields[11:13] { // utime and stime
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += ticks / 100
	}
	return total
}

func residentMiB(b *testing.B, pid int) float64 {
	b.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(size)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatal("no VmRSS in /proc/PID/status")
	return 0
}
