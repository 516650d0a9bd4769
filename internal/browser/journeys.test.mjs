// What merchants do on the five product pages, by the roles and names that their own tests
// would use: with scripts, and without. Codes come by mail, or on the dashboard's standard
// error. What a key can do is asked of the API that takes keys.
import test from 'node:test'
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { alert, arrived, browser, button, dashboard, done, heading, link, mailbox, on, password, person, pin, saved, secretIn, signIn, visit } from './lib.mjs'

const modes = { 'with scripts': {}, 'without scripts': { javaScriptEnabled: false }, 'inside another page': { embedded: true } }

function journey(name, does) {
	for (const [mode, options] of Object.entries(modes)) {
		test(`${name}, ${mode}`, { timeout: 120_000 }, async (t) => does(t, await browser(), options))
	}
}

// clipboard reads what was copied.
const clipboard = (p) => p.page.evaluate(() => navigator.clipboard.readText())

// copied presses a button that copies, and expects what is copied and that it is said.
async function copied(p, where, name, what) {
	if (!p.scripts) return
	await button(where, name).click()
	await where.getByRole('status').filter({ hasText: 'Copied' }).waitFor()
	assert.equal(await clipboard(p), what)
}

async function confirm(p, label, answer) {
	const d = await on(p, 'Confirm that it is you')
	const field = label === 'Code' ? d.getByRole('textbox', { name: label, exact: true }) : d.getByLabel(label, { exact: true })
	await field.fill(answer)
	await button(d, 'Confirm').click()
}

const option = (where, label) => where.getByRole('combobox', { name: label, exact: true })
const row = (p, name) => p.page.getByRole('table', { name: 'Keys' }).getByRole('row').filter({ has: p.page.getByRole('link', { name, exact: true }) })

journey('doku', async (t, b, options) => {
	const mails = await mailbox(t)
	const d = await dashboard(t, 'doku', '-smtp', mails.address)
	const p = await person(t, b, d, 'admin', options)
	let main = await heading(p, 'API keys')
	const modes = p.page.getByRole('navigation', { name: 'Mode' })
	assert.equal(await link(modes, 'Live').getAttribute('aria-current'), 'page')

	// The two public keys are shown to everybody.
	await button(main, 'Show DOKU Public Key').click()
	assert.match(await p.page.getByRole('textbox', { name: 'DOKU Public Key' }).inputValue(), /^-----BEGIN PUBLIC KEY-----/)
	await button(main, 'Show Merchant Public Key').waitFor()

	// Search.
	await main.getByRole('searchbox', { name: 'Search by name' }).fill('mAiN')
	await option(main, 'Status').selectOption({ label: 'Usable' })
	await option(main, 'Used').selectOption({ label: 'Never' })
	await button(main, 'Filter').click()
	await arrived(p, /name=mAiN/)
	assert.equal(await p.page.getByRole('table', { name: 'Keys' }).getByRole('row').count(), 2) // the first are the headings
	await row(p, 'Main').getByRole('checkbox', { name: 'Select Main', exact: true }).waitFor()
	await link(row(p, 'Main'), 'Main').click()
	main = await heading(p, 'Main')
	await copied(p, main, 'Copy client ID', 'BRN-0239-1736742088036')
	const header = await (p.embedded ? p.page.locator('.ak-top') : p.page.getByRole('banner')).innerText()
	assert.ok(header.includes('acc_kopi') && header.includes('admin'), header)

	// Reveal: a wrong code first.
	let since = mails.mails.length
	await button(main, 'Reveal key').click()
	const code = await mails.code(since)
	await confirm(p, 'Code', code === '000000' ? '111111' : '000000')
	assert.match(await alert(await on(p, 'Confirm that it is you')), /4 attempts left/)
	await confirm(p, 'Code', code)
	let dialog = await on(p, 'Key revealed')
	const first = await secretIn(dialog)
	assert.equal(await dialog.getByRole('checkbox', { name: 'I have saved this key' }).count(), 0)
	await copied(p, dialog, 'Copy secret key', first)
	if (p.scripts) await dialog.getByRole('timer').filter({ hasText: /\d+ s left/ }).waitFor()
	await d.works(first)
	await done(p, dialog)

	// Regenerate at a time, and cancel that.
	main = await heading(p, 'Main')
	await button(main, 'Regenerate key').click()
	dialog = await on(p, 'Regenerate key')
	let when = dialog.getByRole('radiogroup', { name: 'Implementation time' })
	await when.getByRole('radio', { name: 'Specific time' }).check()
	await dialog.getByLabel('Date and time').fill('2026-12-31T23:00'.replace('2026', String(new Date().getFullYear())))
	await option(dialog, 'Old key keeps working').selectOption({ label: '3 days' })
	await dialog.getByRole('checkbox', { name: 'I agree to the terms' }).check()
	since = mails.mails.length
	await button(dialog, 'Save').click()
	await confirm(p, 'Code', await mails.code(since))
	dialog = await on(p, 'New secret key')
	const planned = await secretIn(dialog)
	await saved(p, dialog)
	main = await heading(p, 'Main')
	await p.page.getByRole('img', { name: /^Old key until .*, new key from .*/ }).waitFor()
	await d.works(first)
	await d.refused(planned)
	await button(main, 'Cancel rotation').click()
	await main.getByRole('status').filter({ hasText: 'cancelled' }).waitFor()
	assert.equal(await p.page.getByRole('img', { name: /^Old key/ }).count(), 0)
	await d.works(first)

	// Regenerate at once, with an overlap.
	await button(main, 'Regenerate key').click()
	dialog = await on(p, 'Regenerate key')
	await dialog.getByRole('radio', { name: 'Immediately' }).check()
	await option(dialog, 'Old key keeps working').selectOption({ label: '1 day' })
	await dialog.getByRole('checkbox', { name: 'I agree to the terms' }).check()
	since = mails.mails.length
	await button(dialog, 'Save').click()
	await mails.code(since)
	// Cancel in the confirmation goes back to the form as it was filled in.
	await button(await on(p, 'Confirm that it is you'), 'Cancel').click()
	dialog = await on(p, 'Regenerate key')
	assert.equal(await option(dialog, 'Old key keeps working').inputValue(), '24')
	assert.ok(await dialog.getByRole('checkbox', { name: 'I agree to the terms' }).isChecked())
	await button(dialog, 'Save').click()
	dialog = await on(p, 'Confirm that it is you')
	since = mails.mails.length
	await button(dialog, 'Send another code').click()
	await confirm(p, 'Code', await mails.code(since))
	dialog = await on(p, 'New secret key')
	const second = await secretIn(dialog)
	if (p.scripts) {
		const waits = p.page.waitForEvent('download')
		await button(dialog, 'Download .env').click()
		const file = await waits
		assert.equal(await readFile(await file.path(), 'utf8'), `API_KEY=${second}\n`)
	}
	await saved(p, dialog)
	await d.works(first)
	await d.works(second)
	main = await heading(p, 'Main')

	// Edit, suspend, resume, revoke.
	await button(main, 'Edit').click()
	dialog = await on(p, 'Edit key')
	await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('Main shop')
	await button(dialog, 'Save').click()
	main = await heading(p, 'Main shop')
	await button(main, 'Suspend').click()
	await main.getByText('Suspended', { exact: true }).waitFor()
	await d.refused(second)
	await button(main, 'Resume').click()
	await main.getByText('Active', { exact: true }).waitFor()
	await d.works(second)
	await button(main, 'Revoke key').click()
	dialog = await on(p, 'Revoke key')
	for (const name of ['It is no longer needed', 'It may have leaked']) assert.equal(await dialog.getByRole('radio', { name }).isChecked(), false)
	await dialog.getByRole('radio', { name: 'It may have leaked' }).check()
	await button(dialog, 'Revoke').click()
	await main.getByText('Revoked', { exact: true }).waitFor()
	await d.refused(first)
	await d.refused(second)

	// The log of the key, and that of the account.
	await link(main, 'Activity log').click()
	main = await heading(p, 'Activity log')
	await button(main, 'Check the log').click()
	await main.getByRole('status').filter({ hasText: /\d+ entries were checked/ }).waitFor()
	await link(main, 'All keys').click()
	await link(await heading(p, 'API keys'), 'Activity log').click()
	main = await heading(p, 'Activity log')
	await option(main, 'Action').selectOption({ label: 'Key regenerated' })
	await button(main, 'Filter').click()
	await arrived(p, /action=/)
	const log = p.page.getByRole('table', { name: 'Activity log' })
	assert.equal(await log.getByRole('cell', { name: 'Key regenerated' }).count(), 2)
	await main.getByRole('combobox', { name: 'Person' }).fill('superadmin')
	await button(main, 'Filter').click()
	await arrived(p, /person=superadmin/)
	assert.equal(await p.page.getByRole('cell', { name: 'Key regenerated' }).count(), 0)
	await link(main, 'All keys').click()
	await link(await heading(p, 'API keys'), 'Factors').click()
	await heading(p, 'Factors')
})

journey('uddoktapay', async (t, b, options) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '120')
	const p = await person(t, b, d, 'admin', options)
	let main = await heading(p, 'API keys')
	await button(main, 'Show API endpoints').click()
	assert.equal(await main.getByRole('button', { name: /^Copy URL/ }).count(), 3)
	if (p.scripts) {
		await main.getByRole('button', { name: /^Copy URL/ }).first().click()
		await main.getByRole('status').filter({ hasText: 'Copied' }).waitFor()
		assert.equal(await clipboard(p), d.origin + '/live/ping')
	}

	// 50 keys a page, each once.
	const names = new Set()
	for (let pages = 1; ; pages++) {
		for (const name of await p.page.getByRole('table', { name: 'Keys' }).getByRole('rowheader').allInnerTexts()) {
			assert.ok(!names.has(name), name)
			names.add(name)
		}
		if (!await link(main, 'Next page').count()) { assert.equal(pages, 2); break }
		await link(main, 'Next page').click()
		await arrived(p, /cursor=/)
	}
	assert.equal(names.size, 96) // of 120, a fifth is in Test

	await p.page.goto(d.url)
	await link(main, 'New API key').click()
	let dialog = await on(p, 'New API key')
	const name = dialog.getByRole('textbox', { name: 'Name', exact: true })
	await name.fill('a\u202eb')
	await dialog.getByRole('checkbox', { name: 'payment:verify' }).check()
	await dialog.getByLabel('Expires at').fill('2099-12-31')
	await button(dialog, 'Create key').click()
	await dialog.getByText(/a character that cannot be seen/).waitFor()
	assert.equal(await name.inputValue(), 'a\u202eb')
	assert.ok(await dialog.getByRole('checkbox', { name: 'payment:verify' }).isChecked())
	assert.equal(await dialog.getByLabel('Expires at').inputValue(), '2099-12-31')
	await name.fill('Warehouse')
	await button(dialog, 'Create key').click()
	dialog = await on(p, 'API key created')
	const token = await secretIn(dialog)
	assert.equal(await dialog.getByRole('textbox', { name: 'Secret key' }).getAttribute('readonly'), '')
	await copied(p, dialog, 'Copy secret key', token)
	if (p.scripts) {
		await button(dialog, 'Done').click({ force: true }) // not before it is saved
		assert.ok(await dialog.isVisible())
	}
	await d.works(token)
	await saved(p, dialog)
	main = await heading(p, 'Warehouse')
	await main.getByText('31 December 2099', { exact: true }).waitFor()
	assert.equal(await button(main, 'Reveal key').count(), 0)

	// Off by the switch, on by the switch; the day of expiry stays.
	for (const active of [false, true]) {
		await button(main, 'Edit').click()
		dialog = await on(p, 'Edit key')
		assert.equal(await dialog.getByLabel('Expires at').inputValue(), '2099-12-31')
		await dialog.getByRole('switch', { name: 'Is active' }).setChecked(active)
		await button(dialog, 'Save').click()
		await main.getByText(active ? 'Active' : 'Suspended', { exact: true }).waitFor()
		await (active ? d.works(token) : d.refused(token))
	}
	await main.getByText('31 December 2099', { exact: true }).waitFor()
	await link(main, 'All keys').click()

	// Several at once, after a leak.
	main = await heading(p, 'API keys')
	await p.page.getByRole('checkbox', { name: 'Select Warehouse', exact: true }).check()
	const others = p.page.getByRole('row').filter({ has: p.page.getByRole('checkbox', { name: /^Select Shop/ }) }).first()
	const othersName = await others.getByRole('rowheader').innerText()
	await others.getByRole('checkbox', { name: `Select ${othersName}`, exact: true }).check()
	await button(main, 'Revoke selected').click()
	main = await heading(p, 'Revoke 2 keys')
	await main.getByRole('radio', { name: 'It may have leaked' }).check()
	await main.getByRole('textbox', { name: 'Type how many keys are revoked' }).fill('3')
	await button(main, 'Revoke').click()
	await main.getByText('Type 2 to revoke these keys.').waitFor()
	await d.works(token)
	main = await heading(p, 'Revoke 2 keys')
	assert.ok(await main.getByRole('radio', { name: 'It may have leaked' }).isChecked())
	await main.getByRole('textbox', { name: 'Type how many keys are revoked' }).fill('2')
	await button(main, 'Revoke').click()
	main = await heading(p, 'API keys')
	await main.getByRole('status').filter({ hasText: '2 keys are revoked' }).waitFor()
	await d.refused(token)
	await row(p, othersName).getByText('Revoked', { exact: true }).waitFor()

	// A test key works in Test alone.
	await link(p.page.getByRole('navigation', { name: 'Mode' }), 'Test').click()
	await arrived(p, /mode=test/)
	await link(main, 'New API key').click()
	dialog = await on(p, 'New API key')
	await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('Sandbox')
	await button(dialog, 'Create key').click()
	dialog = await on(p, 'API key created')
	const test = await secretIn(dialog)
	await saved(p, dialog)
	await d.works(test, 'test')
	await d.refused(test, 'live')
})

journey('xendit', async (t, b, options) => {
	const d = await dashboard(t, 'xendit')
	const p = await person(t, b, d, 'superadmin', options)
	let main = await heading(p, 'API keys')
	await link(main, 'New API key').click()
	let dialog = await on(p, 'New API key')
	await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('Cashier')
	const level = (product, name) => dialog.getByRole('radiogroup', { name: product }).getByRole('radio', { name, exact: true })
	assert.ok(await level('money-in', 'None').isChecked())
	await level('money-in', 'Write').check()
	await level('balance', 'Read').check()
	await button(dialog, 'Create key').click()
	await confirm(p, 'Password', 'wrong horse')
	assert.match(await alert(await on(p, 'Confirm that it is you')), /4 attempts left/)
	await button(await on(p, 'Confirm that it is you'), 'Cancel').click()
	dialog = await on(p, 'New API key') // as it was filled in
	assert.equal(await dialog.getByRole('textbox', { name: 'Name', exact: true }).inputValue(), 'Cashier')
	assert.ok(await level('money-in', 'Write').isChecked())
	assert.ok(await level('balance', 'Read').isChecked())
	await button(dialog, 'Create key').click()
	await confirm(p, 'Password', password)
	dialog = await on(p, 'API key created')
	const token = await secretIn(dialog)
	await d.works(token)
	await saved(p, dialog)
	main = await heading(p, 'Cashier')
	for (const a of ['money-in=write', 'balance=read']) await main.getByText(a, { exact: true }).waitFor()

	await button(main, 'Revoke key').click()
	dialog = await on(p, 'Revoke key')
	await dialog.getByRole('radio', { name: 'It is no longer needed' }).check()
	await button(dialog, 'Revoke').click()
	await confirm(p, 'Password', password)
	await main.getByText('Revoked', { exact: true }).waitFor()
	await d.refused(token)
	await link(main, 'All keys').click()
	await row(p, 'Cashier').getByText('Revoked', { exact: true }).waitFor()
})

journey('okto', async (t, b, options) => {
	const d = await dashboard(t, 'okto')
	const p = await person(t, b, d, 'admin', options)
	const tokens = []
	for (const mode of ['Live', 'Test']) {
		await link(p.page.getByRole('navigation', { name: 'Mode' }), mode).click()
		await arrived(p, (u) => u.search.includes(mode.toLowerCase()))
		const main = await heading(p, 'API keys')
		await button(main, 'Get App Secret').click()
		await confirm(p, 'Password', password)
		const dialog = await on(p, 'API key created')
		tokens.push(await secretIn(dialog))
		await saved(p, dialog)
		await main.getByText('Active', { exact: true }).waitFor()
		assert.equal(await button(main, 'Get App Secret').count(), 0)
		await d.works(tokens.at(-1), mode.toLowerCase())
	}
	await link(p.page.getByRole('navigation', { name: 'Mode' }), 'Live').click()
	await arrived(p, /mode=live/)
	const main = await heading(p, 'API keys')
	const id = await main.locator('#ak-app').innerText()
	await copied(p, main, 'Copy App ID', id)
	await main.getByText(/A reset makes a new App Secret, and the old one stops working/).waitFor()
	await button(main, 'Reset').click()
	let dialog = await on(p, 'Regenerate key')
	await button(dialog, 'Save').click()
	await confirm(p, 'Password', password)
	dialog = await on(p, 'New secret key')
	const next = await secretIn(dialog)
	await saved(p, dialog)
	await d.works(next)
	await d.refused(tokens[0])
	await d.works(tokens[1], 'test')
	await heading(p, 'API keys')
	assert.equal(await main.locator('#ak-app').innerText(), id)
})

journey('pin', async (t, b, options) => {
	const d = await dashboard(t, 'pin')
	const p = await person(t, b, d, 'admin', options)
	let main = await heading(p, 'API keys')
	await link(p.page.getByRole('region', { name: 'disbursement' }), 'Generate').click()
	let dialog = await on(p, 'Generate a key')
	await button(dialog, 'Continue').click()
	await confirm(p, 'PIN', pin)
	dialog = await on(p, 'API key created')
	const token = await secretIn(dialog)
	await saved(p, dialog)
	await d.works(token)
	main = await heading(p, 'disbursement')
	await button(main, 'Reveal key').click()
	await confirm(p, 'PIN', pin)
	dialog = await on(p, 'Key revealed')
	assert.equal(await secretIn(dialog), token)
	await done(p, dialog)
	await button(main, 'Suspend').click()
	await main.getByText('Suspended', { exact: true }).waitFor()
	await d.refused(token)

	// A viewer sees why not.
	await signIn(p.page, d, 'viewer')
	await visit(p, '/new?product=disbursement')
	await p.page.getByRole('heading', { name: /may not/ }).waitFor()
})

test('10 wrong answers', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'xendit')
	const p = await person(t, await browser(), d, 'admin')
	const main = await heading(p, 'API keys')
	await link(main, 'New API key').click()
	const dialog = await on(p, 'New API key')
	await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('Never made')
	await dialog.getByRole('radio', { name: 'Read', exact: true }).first().check()
	await button(dialog, 'Create key').click()
	const said = []
	for (let i = 0; i < 12 && !/Try again in/.test(said.at(-1)); i++) {
		const screen = p.page.getByRole('dialog')
		const answered = p.page.waitForResponse((r) => r.request().method() === 'POST')
		if (await button(screen, 'Password').count()) {
			await button(screen, 'Password').click()
		} else {
			await screen.getByLabel('Password', { exact: true }).fill('wrong ' + i)
			await button(screen, 'Confirm').click()
		}
		await (await answered).finished()
		await p.page.waitForFunction(() => !document.querySelector('dialog button:disabled'))
		said.push(await p.page.getByRole('dialog').innerText())
	}
	assert.match(said.at(-1), /too many[^]*Try again in \d/i)
	t.diagnostic(`what is said at last, after ${said.length} answers: ${said.at(-1).replace(/\s+/g, ' ')}`)
})
