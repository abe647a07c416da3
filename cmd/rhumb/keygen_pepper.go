package main

import (
	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

func keygenPepper() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "pepper",
		Short: "Make the secret under which a gateway's API keys are hashed",
		Long: `Make the secret under which a gateway's API keys are hashed
(agent.auth.pepper_file): 32 random bytes as one line of base64. With another
pepper all keys are worthless, so keep it as long as the keys.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := saveSecret(file, keyring.HashSize); err != nil {
				return err
			}
			return show(cmd, pepper{file})
		},
	}
	cmd.Flags().StringVar(&file, "out", "pepper", "`file` to write")
	return cmd
}

// pepper is what was made.
type pepper struct {
	File string `json:"pepper_file"`
}

// String is what a person needs to know of it.
func (p pepper) String() string {
	return "pepper  " + p.File + "\nGive it to the gateways that know the keys, and to nobody else. Make keys with rhumb keygen key."
}
