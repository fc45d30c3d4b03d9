// Command generate writes the dashboard to a file, dashboards/evenkeel.json if
// none is named. It is run from the root of the repository.
package main

import (
	"fmt"
	"os"

	"github.com/evenkeel/evenkeel/dashboards"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	path := "dashboards/evenkeel.json"
	if len(args) > 0 {
		path = args[0]
	}
	content, err := dashboards.Render()
	if err == nil {
		err = os.WriteFile(path, content, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		return 1
	}
	return 0
}
