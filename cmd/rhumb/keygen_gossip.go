package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/gossip"
)

func keygenGossip() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "gossip",
		Short: "Make the key that all members of a fleet share for their gossip",
		Long: `Make the key that all members of a fleet share for their gossip
(gossip.key_file): 32 random bytes as one line of base64.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := writeGossipKey(file); err != nil {
				return badInput{err}
			}
			return show(cmd, gossipKey{file})
		},
	}
	cmd.Flags().StringVar(&file, "out", "gossip.key", "`file` to write")
	return cmd
}

// gossipKey is what was made.
type gossipKey struct {
	File string `json:"key_file"`
}

// String is what a person needs to know of it.
func (k gossipKey) String() string {
	return fmt.Sprintf("key  %s\nGive the same file to all members.", k.File)
}

// writeGossipKey writes a new file that only its owner can read.
func writeGossipKey(file string) error {
	key := make([]byte, gossip.KeySize)
	_, _ = rand.Read(key) // never fails
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("save %s: it exists; move it away or choose another name", file)
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}
