"""Resources: what assets, jobs and sensors are given of the deployment that they run in.

One, thin: it reads settings when it is asked, not when definitions are loaded, so that webserver, daemon and CI
load them without a setting, a broker or a directory. The objects it gives are the domain's and know no Dagster.
"""

from typing import TYPE_CHECKING

import dagster as dg

from efd_pipelines.settings import Settings, load_settings

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive


class Deployment(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The deployment of the process: settings from `EFD_*` variables, and the archive that they name."""

    def settings(self) -> Settings:
        """The settings in force.

        Raises:
            SettingsError: naming every variable that is wrong.
        """
        return load_settings()

    def archive(self) -> "Archive":
        """The archive; nothing connects before it is asked for something."""
        from efd_pipelines.archive.archive import Archive

        return Archive(self.settings())
