"""Taking over new models: believe, fetch, check, probe, try, keep the one before.

In reading order: :mod:`.updater` leads every update through the one table of :mod:`.states`, and
:mod:`.recovery` what an end has interrupted; :mod:`.orders` and :mod:`.wanted` say what
to run, by :mod:`.trust`; :mod:`.job` is what each state does; :mod:`.fetch` decides which blobs to
ask :mod:`.ways` for, :mod:`.partial` keeps them on disk; :mod:`.probe` tries a bundle in a child
process, :mod:`.field_test` in the pipelines, judged by :mod:`.trial`; :mod:`.store` and
:mod:`.pointer` keep what is installed, :mod:`.disk` durably; :mod:`.reports` tells of it all.
"""
