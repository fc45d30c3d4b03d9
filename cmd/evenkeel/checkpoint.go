package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/alecthomas/kingpin/v2"

	"github.com/evenkeel/evenkeel/remediate/checkpoint"
)

func addCheckpoint(app *kingpin.Application, add func(*kingpin.CmdClause, func() error), ctx context.Context, stdout io.Writer) {
	parent := app.Command("checkpoint", "Tell whole checkpoints from torn ones, as the remediator does before it resumes a job.")

	list := parent.Command("list", "Inspect every checkpoint in a job's folder, newest first. Fails if none of them is whole.")
	listDir := list.Arg("dir", "Folder that holds the job's step-N folders.").Required().String()
	listJSON := list.Flag("json", "Print JSON.").Bool()
	add(list, func() error {
		listing, err := checkpoint.List(ctx, *listDir)
		if err != nil {
			return err
		}
		if err := show(stdout, *listJSON, listing, listing.WriteText); err != nil {
			return err
		}
		for _, c := range listing.Checkpoints {
			if c.State == checkpoint.Whole {
				return nil
			}
		}
		return errReported
	})

	verify := parent.Command("verify", "Verify one checkpoint. Fails unless it is whole.")
	verifyDir := verify.Arg("dir", "Folder of the checkpoint, with .metadata and the shards.").Required().String()
	verifyJSON := verify.Flag("json", "Print JSON.").Bool()
	add(verify, func() error {
		report, err := checkpoint.Verify(ctx, *verifyDir)
		if err != nil {
			return err
		}
		if err := show(stdout, *verifyJSON, report, report.WriteText); err != nil {
			return err
		}
		if report.State != checkpoint.Whole {
			return errReported
		}
		return nil
	})
}

// show prints v as JSON or as text.
func show(w io.Writer, asJSON bool, v any, text func(io.Writer) error) error {
	if !asJSON {
		return text(w)
	}
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", content)
	return err
}
